"""What several steps do."""
