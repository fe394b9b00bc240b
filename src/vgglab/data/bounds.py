"""What the numbers among the settings of data may be."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Gt(0)]
CountOrZero = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]
Alpha = Annotated[float, Ge(0)]
