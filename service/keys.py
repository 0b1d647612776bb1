"""`python -m service.keys NAME ROLE` makes an API key; `service/http/keys.py` does the work."""

from service.http.keys import main

if __name__ == "__main__":
    main()
