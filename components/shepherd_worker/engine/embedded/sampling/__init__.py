"""From logits to next tokens: adjusted, steered, drawn, guessed and verified."""
