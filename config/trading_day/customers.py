"""Who buys: sixty people who do not exist, at domains that never will."""

import unicodedata
from dataclasses import dataclass

_NAMES = """
Ada Okafor, Aiko Tanaka, Alejandro Ruiz, Amélie Girard, Amina Diallo, Anders Holm, Anna Kowalska, Ben Carter,
Björn Lindqvist, Camille Laurent, Carlos Mendes, Chen Wei, Chloé Bernard, Clara Hoffmann, Daniel Osei, David Cohen,
Diego Fernández, Elena Rossi, Emily Walker, Emre Yılmaz, Fatima Zahra, Felix Braun, Fiona Campbell, Gabriela Souza,
Grace Nakamura, Hannah Schmidt, Hugo Martin, Ingrid Berg, Isabelle Roux, Ivan Petrov, Jack Thompson, Jana Novák,
João Pereira, Julia Weber, Kaito Mori, Katarzyna Nowak, Kwame Mensah, Laura Bianchi, Leila Haddad, Liam O'Brien,
Li Na, Lucía Torres, Mai Nguyen, Marcus Johnson, Maria Papadopoulou, Matteo Ferrari, Mei Lin, Mohammed Ali,
Nadia Rahman, Niamh Kelly, Noah Fischer, Olivia Green, Priya Sharma, Rafael Costa, Ravi Patel, Sofia Andersson,
Thomas Müller, Yuki Sato, Zhang Min, Zoë van Dijk
"""
_DOMAINS = ("example.com", "example.org", "example.net")


@dataclass(frozen=True, slots=True)
class Customer:
    id: str
    name: str
    email: str


def list_customers() -> list[Customer]:
    names = [name.strip() for name in _NAMES.replace("\n", " ").split(",")]
    return [
        Customer(id=f"cust-{1000 + place}", name=name, email=f"{_address(name)}@{_DOMAINS[place % len(_DOMAINS)]}")
        for place, name in enumerate(names, start=1)
    ]


def _address(name: str) -> str:
    """`"Zoë van Dijk"` → `zoe.van.dijk`"""
    plain = unicodedata.normalize("NFKD", name.replace("ı", "i")).encode("ascii", "ignore").decode()
    return ".".join(plain.replace("'", "").lower().split())
