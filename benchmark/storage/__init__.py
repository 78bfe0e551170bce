"""What a run leaves on disk: files, folders, leases, records."""
