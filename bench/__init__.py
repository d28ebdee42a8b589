"""The benchmark: our engine and our app against the stack that people would glue together, interleaved in time."""
