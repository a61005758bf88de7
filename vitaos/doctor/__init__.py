"""What a machine has and lacks for training: each part looks at one subject and says how to mend it."""
