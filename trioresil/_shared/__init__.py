"""State that processes share, over Redis or Valkey."""
