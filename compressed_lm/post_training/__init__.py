"""What is done to finished runs: quantize, entropy-code, shrink, exchange with Hugging Face."""
