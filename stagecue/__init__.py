"""The command line, and the composition that joins the services: in one process, or one each."""
