export class Auth { async handle() {} failure(e) { return e } }
