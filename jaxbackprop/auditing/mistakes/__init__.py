"""What people get wrong in a gradient, one file a family: each mistake as the wrong gradient that it leads to."""
