"""Files, over connections that are secure: what `stx-send` and `stx-recv` are made of.

    A                                        B
    HELLO                                    HELLO                both at once
    PUT  transfer id, path, size      -->
                                      <--    HAVE | REFUSE        what is there already
    DATA offset, bytes  (a window)    -->
                                      <--    ACK offset           it is durable
    END  size, digest                 -->
                                      <--    RECEIPT code, digest, path

Many files are under way at once, each with a number of its own.  The modules
know nothing of sockets: `sender.Sending` and `receiver.Receiving` take bytes
and give bytes; `store.Store` is the directory that files arrive in.
"""
