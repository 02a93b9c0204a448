"""`trioresil demo`: a flaky service, a bare and a resilient client, and what became of their requests."""
