"""How the shipped model is made: tokenizer, batches, training; needs torch and transformers."""
