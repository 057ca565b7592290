"""GGUF files, the format of llama.cpp: read as checkpoints with Hugging Face's names, and written.

The package `gguf` (extra [hf]) is imported when a file is opened or written.
"""
