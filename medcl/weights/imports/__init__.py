"""Networks of other programs as weights of medcl."""
