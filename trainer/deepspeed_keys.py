def check(config):
    pass


def json_schema():
    return {}
