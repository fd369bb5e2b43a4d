"""Game days: scenarios, each a question with a verdict, run against a system set up for them."""
