"""The subcommands of `stagecue`, each imported only when it is called."""
