"""Owns tasks: nursery-owning context managers and memory-channel workers."""
