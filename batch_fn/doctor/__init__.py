"""The doctor: looks at everything that a job needs, says what is wrong and how to cure it, and leaves nothing behind."""
