"""A page of twisted.web beside the routes, and its test, which trial and pytest both run."""
