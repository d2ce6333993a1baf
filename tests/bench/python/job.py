"""One deliberation as a Ray job: what `ray job submit` runs."""

import asyncio
import sys

from chat import deliberate, session


async def main() -> None:
    """Asks all agents."""
    async with session() as http:
        await deliberate(http, sys.argv[1], sys.argv[2], int(sys.argv[3]))


asyncio.run(main())
