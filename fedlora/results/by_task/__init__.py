"""What each task answers and how it is judged: a file a task (`fedlora.results.base.Results`)."""
