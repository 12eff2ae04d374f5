"""What a file of weights is, and what every loader would take of it and lose."""
