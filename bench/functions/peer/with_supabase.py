"""record-activity as people would write it with FastAPI and supabase-py: a client of the caller, one insert.

One HTTP client serves all requests; with a new one for each, this would be several times slower.
"""

import os
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header, HTTPException
from postgrest.exceptions import APIError
from pydantic import BaseModel

from supabase import AsyncClientOptions, acreate_client

app = FastAPI()
http = httpx.AsyncClient(timeout=10)


class Entry(BaseModel):
    type: str
    title: str
    entity_type: str
    entity_id: str
    action: str
    metadata: dict[str, Any] = {}


@app.post("/", status_code=201)
async def record(entry: Entry, authorization: Annotated[str, Header()]) -> Any:
    options = AsyncClientOptions(
        headers={"Authorization": authorization}, httpx_client=http, auto_refresh_token=False, persist_session=False
    )
    supabase = await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_PUBLISHABLE_KEY"], options)
    row = {"organization_id": os.environ["ORGANIZATION"], **entry.model_dump()}
    try:
        return (await supabase.table("activity_feeds").insert(row).execute()).data[0]
    except APIError as error:
        raise HTTPException(400, error.message) from error
