"""Payment providers, a module each: `payments.gateway` says what one must do and picks the one in use."""
