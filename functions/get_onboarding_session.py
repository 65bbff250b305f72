from shared.app.call import Call, Result
from shared.app.function import function
from shared.onboarding.sessions import OnboardingSession, SessionReference


@function(
    "user", "publishable", errors={404: "There is no such session for this caller.", 410: "It has expired unpaid."}
)
async def get_onboarding_session(call: Call[SessionReference]) -> Result[OnboardingSession]:
    """Get an onboarding session, to resume it.

    Its user finds it without a token, on any device. Unknown, malformed and other people's tokens get the same 404.
    """
    return await call.run("private.get_onboarding_session", call.body.request())
