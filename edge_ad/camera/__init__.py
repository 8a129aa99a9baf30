"""Pictures from anywhere: sources behind one URI scheme, a one-slot mailbox, camera health."""
