raise RuntimeError("libnothing.so.1 is missing")
