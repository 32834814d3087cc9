"""What a Session holds, in fewer words."""


def answered(session, question="what is this?"):
    return "".join(session.ask(question))


def entries(session):
    return session.picture().talk.entries


def regions(session):
    return session.picture().regions
