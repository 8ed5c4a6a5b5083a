"""`pedsup-run --serve`: a page for this device's browser and OpenAI's chat protocol.

    HTTP threads (waitress)                              main thread
    web.py: who may ask, what was asked
      completions.py, page_api.py  --submit-->  jobs.py: one queue, one answer at a time
      server-sent events           <--events--    Conversation.ask, as on the terminal

The model runs in the main thread, where Ctrl-C and a template's time limit work as they do in a
terminal session.
"""
