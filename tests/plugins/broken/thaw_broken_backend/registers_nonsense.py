import thaw


@thaw.hookimpl
def thaw_register_backends():
    return ["not a backend"]
