"""Operations on finished runs: quantize, entropy-code, shrink, exchange with Hugging Face."""
