"""The subcommands of keras-mixer: each parses its options, calls the package, prints."""
