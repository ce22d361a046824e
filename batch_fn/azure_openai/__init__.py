"""The Azure OpenAI service: the only package that imports openai."""
