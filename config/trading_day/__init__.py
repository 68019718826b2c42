"""A day of trading for a new installation, made by driving the public API and the provider's stand-in.

Nothing is inserted behind the API's back. The provider's clock is turned back, so that the day is yesterday and can be
reconciled as a day that is over; what our own clock stamps (orders, webhooks, mails) carries the moment of loading.
Every request has an Idempotency-Key of its own that never changes: a load that was interrupted is simply run again.

books      what is sold: real books with their ISBNs (books.csv)
customers  who buys
plan       who buys what, when and how; the same on every run
client     the product's API, as a storefront and a back-office call it
provider   the provider as the browser sees it (Stripe.js), and the sandbox's control interface
shops      the merchants and their stock
trading    visits to the shop, and what is done about orders afterwards
finance    the books begin, the bank's statements are taken in
evening    differences are planted, found by reconciliation, and one is closed
diary      what has been done already
progress   what the terminal shows meanwhile
load       all of it, in order
"""
