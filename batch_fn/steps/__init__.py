"""What moves a job on: each step is one invocation, and may run twice."""
