"""Text on its way in and out: messages become token ids, token ids become text.

In: `render` turns a conversation into ids; `jinja` compiles the template, `probe` finds out what
it takes, `messages` brings messages into that shape, `guard` (with `marks`, `seams` and
`template_reading`) keeps control tokens out of the hands of users. `tokenizer` knows the
vocabulary, `plain_tokenizer` makes its twin for text that must stay text, `enough` says how much of
a text is encoded that is far too long.

Out: `detokenize` and `stop_strings` work on the answer as it grows, `token_bytes` says what each
token stands for, `generation_stops` which ids end an answer.

Nothing here knows the engine or the server.
"""
