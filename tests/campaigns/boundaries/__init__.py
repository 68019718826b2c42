"""Every boundary: a process is killed at each place where it could die, resumes, and nothing is lost or doubled."""
