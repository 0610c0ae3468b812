"""What everything stands on: contracts, losses, files, environment, errors."""
