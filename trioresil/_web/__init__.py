"""What is served over HTTP; needs the extra `cli`."""
