"""record-activity as people would write it with FastAPI and SQLAlchemy: verify the token, set the claims, insert."""

import json
import os
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import FetchedValue, text
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

app = FastAPI()
keys = jwt.PyJWKClient(os.environ["JWKS_URL"])
engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=16, max_overflow=0)
sessions = async_sessionmaker(engine)
TYPES = ("USER_ACTION", "SYSTEM_EVENT", "WORKFLOW_UPDATE", "DATA_CHANGE", "SECURITY_EVENT", "INTEGRATION_EVENT")


class Base(DeclarativeBase):
    pass


class FeedEntry(Base):
    __tablename__ = "activity_feeds"
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    organization_id: Mapped[UUID]
    user_id: Mapped[UUID]
    type: Mapped[str] = mapped_column(ENUM(*TYPES, name="DashboardActivityType", schema="public", create_type=False))
    title: Mapped[str]
    entity_type: Mapped[str]
    entity_id: Mapped[str]
    action: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class Entry(BaseModel):
    type: str
    title: str
    entity_type: str
    entity_id: str
    action: str
    metadata: dict[str, Any] = {}


def claims_of(authorization: Annotated[str, Header()]) -> dict[str, Any]:
    token = authorization.removeprefix("Bearer ")
    try:
        return jwt.decode(token, keys.get_signing_key_from_jwt(token).key, ["ES256"], audience="authenticated")
    except jwt.PyJWTError as error:
        raise HTTPException(401, str(error)) from error


@app.post("/", status_code=201)
async def record(entry: Entry, claims: Annotated[dict[str, Any], Depends(claims_of)]) -> Any:
    fields = entry.model_dump()
    async with sessions.begin() as session:
        await session.execute(
            text("select set_config('request.jwt.claims', :claims, true)"), {"claims": json.dumps(claims)}
        )
        row = FeedEntry(
            organization_id=UUID(os.environ["ORGANIZATION"]), user_id=UUID(claims["sub"]),
            metadata_=fields.pop("metadata"), **fields,
        )  # fmt: skip
        session.add(row)
        await session.flush()
        return {"id": row.id, "created_at": row.created_at}
