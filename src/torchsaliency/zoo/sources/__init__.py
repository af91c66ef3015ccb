"""The places networks come from, one file each: a `Request` goes in, a `Network` comes out."""
