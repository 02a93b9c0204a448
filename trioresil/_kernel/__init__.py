"""What decides: arithmetic and small state machines, without Trio, a clock, a random source or a log.

The law of every file here: `now` and the source of chance are arguments, nothing waits, nothing is shared behind the
caller's back, and the same arguments give the same answer. So each rule can be proved by a property test alone, and a
policy needs to be read for its waiting and its cancellation only. Whatever keeps an instant has `shift(seconds)`.
"""
