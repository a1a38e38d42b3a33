"""An architecture search: what is trained and scored, in what order, and how a stopped one resumes."""
