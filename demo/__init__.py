"""What a user touches: the session, the Gradio chat and the command line."""
