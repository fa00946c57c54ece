"""What survives the process: registrations and users."""
