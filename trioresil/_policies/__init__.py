"""The policies: each waits, none decides. One policy, one file; no policy imports another."""
