"""An architecture search: what is trained and scored, in what order, how a stopped one resumes."""
