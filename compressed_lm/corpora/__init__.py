"""Documents in, token stores out. Only `tasks` and `vocabulary` import TensorFlow; nothing imports them unasked."""
