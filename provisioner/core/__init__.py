"""What a volume is and what may be done with it, whoever asks and wherever it lives. Knows no transport and no store."""
