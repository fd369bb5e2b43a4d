"""Where titles and profiles come from: catalog files, viewing histories."""
