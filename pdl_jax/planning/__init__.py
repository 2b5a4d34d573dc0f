"""What a configuration costs on given chips, from its compiled programs."""
